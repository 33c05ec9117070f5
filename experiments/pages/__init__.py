"""The road from committed rows to pages.

A page is Markdown, written by hand. What was measured stands between a marker and ``<!-- end -->``,
and ``make pages`` writes it anew from ``benchmarks/results``:

    <!-- table: MODULE.FUNCTION ARGUMENTS -->   a table: what the function here of that name returns
    <!-- figure: checks.figure RESULT N -->     a drawing, likewise
    <!-- made: RESULT COMMAND -->               command, machine, versions, seconds
    <!-- value: RESULT:PATH FORMAT -->          one number of a result file, inside a sentence
    <!-- value: MODULE.FUNCTION ARGUMENTS -->   one number or list that has to be computed
"""
