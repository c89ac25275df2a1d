"""Reports as one HTML file each: no script, nothing foreign; to be read on a phone, by keyboard and in print."""
