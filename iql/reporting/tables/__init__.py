"""The tables of a report: their numbers as text, and the formats for a terminal, Markdown, LaTeX and spreadsheets.

May import the modules of reporting beside it that compute what is shown.
"""
