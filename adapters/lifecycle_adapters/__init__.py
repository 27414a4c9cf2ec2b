"""The browsers and services that a lifecycle can run: one module or package for each adapter.

Rule: an adapter imports the public ports of `lifecycle` (`states`, `errors`, `audit`, `config`, `cookies`, `ports`),
never its engine, and `lifecycle` never imports an adapter: it finds them by the entry points of the group
``lifecycle.adapters``.
"""
