"""A running server under load: requests at their times, what each took, and what that says of cold and warm adapters.

``target`` asks the server what it is; ``requests`` has what is sent and what came of it, ``load`` sends
them in an open loop. ``numbers`` says what a run of one seed took, ``result`` what several say
together. Torch-free.
"""
