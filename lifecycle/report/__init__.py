"""The report of an audit: one HTML page on the sessions of a store, which needs nothing but itself.

Rule: the page is whole without its script, loads nothing, and can connect to nothing. It is written a session at a
time, so what is held in memory is one session and the ids of all.
"""

from lifecycle.report.page import Verification, write_report

__all__ = ["Verification", "write_report"]
