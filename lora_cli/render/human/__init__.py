"""Values as people read them: plain text at a given width, coloured only when asked. One file per command."""
