"""The review page: look at alerts in a browser, and say whether they were right."""
