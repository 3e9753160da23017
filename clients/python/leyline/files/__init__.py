"""Experience as files, so that it moves between machines: Parquet, and data sets of Minari.

Its modules need the extra `files`; docs/experience-files.md says what the files hold.
"""
