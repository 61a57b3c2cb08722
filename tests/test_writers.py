"""What cannot be written is told by the name that was asked for."""

import errno
import os

import pytest

from helios_jax.writers import WriteError, writing


@pytest.mark.parametrize("path", ["v/a.mp4", "v/.a.mp4.partial-7", "v/.a.mp4.partial-x_1/new.mp4"])
def test_an_error_names_the_result_and_not_what_it_is_prepared_in(path):
    told = "v/a.mp4 cannot be written: No space left on device"
    with pytest.raises(WriteError, match=told), writing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
