"""Options as a table: what a value may be, where it comes from, and what is written from the table.

Nothing here knows an option of hostdevd's; they are the fields of `hostdevd.config.Config`.
"""
