"""Write every table, figure and number of the pages anew: ``make pages``."""

from experiments.pages.checks import write_drawings
from experiments.pages.road import PAGES, render


def main() -> None:
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.name} written")
    for name in write_drawings():
        print(f"{name} written")


if __name__ == "__main__":
    main()
