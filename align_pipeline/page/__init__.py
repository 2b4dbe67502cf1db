"""Parts of the page that the report is: headings, tables, figures, numbers as text."""
