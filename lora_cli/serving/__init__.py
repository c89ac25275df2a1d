"""``warm --serve``: the warm process behind an HTTP API.

A completion goes ``api`` → ``adapter_manager`` (fetch, validate, load and prove the adapter) → ``scheduler`` (a queue,
static batches) → ``WarmProcess.submit(Generate)`` → the child process (``runtime.worker_process``). Its output comes
back as ``RowEvent`` messages.
"""
