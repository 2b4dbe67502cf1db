"""Building blocks of the report page: templates, macros, table columns, and numbers as text."""
