"""The charts of a report as data for Plotly, which the HTML page and the image for a paper draw.

May import the modules of reporting beside it that compute what is drawn.
"""
