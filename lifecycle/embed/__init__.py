"""Sessions inside frameworks of others: the framework drives the browser, and a session of ours owns it.

Rule: each module imports its framework and is imported by nobody else here, so a program pays for the one it uses. The
framework gets a browser that exists already, over CDP; it never starts one, and its own end of the browser is the end
of the session or leaves it alone, as the module says.
"""
