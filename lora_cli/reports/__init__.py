"""What commands show: for people (``human``), as JSON, SARIF, JUnit, for GitHub, and as HTML pages."""
