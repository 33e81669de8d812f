"""What run directories say, read back: tables, charts, a page.

reading.py      runs from their directories
labels.py       what their configurations are called, and what was swept
results.py      scores by task and configuration, over tasks, against each other
statistics.py   means, interquartile means, bootstrap intervals
published.py    what others published, from published.yaml
tables.py       for a terminal, as Markdown, CSV and LaTeX
chart.py        a chart as data; curves.py, sensitivity.py and comparisons.py make them
page.py         the HTML page, from assets/; images.py: learning curves as PNG or SVG
figures.py      the pictures that a finished run leaves in its directory
"""
