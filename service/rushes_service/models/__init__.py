"""Model families: one file each, and the table that finds them. Nothing outside this package knows one from another."""
