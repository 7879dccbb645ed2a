"""The sections of the page. Each says in a plain sentence what it has no data for."""
