"""The database: its tables, and connections that keep what they acknowledge."""
