"""The places that the tests of faults are run at, and where others fetch."""

from tests.fetching.desk import desk
from tests.fetching.places import at_az, at_gs, at_https, at_hub, at_oci, at_rclone, at_s3, at_sftp, patience, patient

__all__ = [
    "at_az",
    "at_gs",
    "at_https",
    "at_hub",
    "at_oci",
    "at_rclone",
    "at_s3",
    "at_sftp",
    "desk",
    "patience",
    "patient",
]
