"""The programming interfaces of other libraries, over anyseal. One module for each."""
