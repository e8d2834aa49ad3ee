"""The application in the browser: masks by clicks, corrections, exports."""
