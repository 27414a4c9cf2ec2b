"""Adapters for browsers that others host: one module a vendor, over one core.

Rule: a session is the vendor's to run and this process's to answer for. A create is tagged with the id of the session
and never sent twice, a release is done when the vendor's status says so, and a key is in no message, repr or record.

    vendor.py    what a vendor has to say for itself
    told.py      what vendors tell, and the body of a create
    creating.py  one create, and what becomes of it when its answer is lost
    finding.py   looks for what such a create has made
    ending.py    one release, and the backend that makes it
    watching.py  looks for an end that comes by itself
    reach.py     the address of a browser whose server names its own machine
    core.py      the adapter that all of them are

    steel.py, browserbase.py, hyperbrowser.py, kernel.py, anchor.py, webdriver.py
    browserless.py   has no create: to connect is to create
"""
