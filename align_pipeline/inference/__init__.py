"""Statistics shared by measurements: tables and arrays in, tables and arrays out."""
