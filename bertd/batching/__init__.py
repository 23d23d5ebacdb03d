"""Which rows run next, decided from values alone.

May import the standard library and `bertd.errors`. Must never import anything else of bertd, read
a clock (time comes in as an argument, in seconds of `time.monotonic`), wait, or know what a row
carries.
"""
