"""What all AWS clients of this library share (extra ``aws``)."""
