"""Networks of other libraries and files, read into a :class:`gpubp.Network`."""
