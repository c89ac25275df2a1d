"""A running server under load: requests at their times, what each took, and what that says of cold and warm adapters.

``target`` asks the server what it is; ``ask`` is a request, ``streaming`` sends one and ``load`` all of them, in an
open loop; ``answer`` is what came of one. ``tiers`` says which found their adapter where, ``numbers`` what a run of one
seed took and ``seeds`` what several say together. Torch-free.
"""
