"""Scripts are run as scripts, not imported to look for doctests."""

collect_ignore = ["scripts"]
