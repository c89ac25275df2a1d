"""``warm --serve``: the warm process behind an HTTP API.

A request goes api → host → warm process: ``api`` reads and bounds what a client says, ``host`` knows each adapter by
its name and sees that it is on this disk and loaded, and the warm process (``runtime``) holds it on the device.
"""
