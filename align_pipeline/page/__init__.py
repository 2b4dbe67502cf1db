"""The page that the report is: templates, macros, columns of tables, numbers as text."""
