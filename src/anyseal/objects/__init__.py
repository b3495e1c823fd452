"""Objects: large things sealed in segments of chunks; any byte range opens alone."""

from anyseal.objects.format import ObjectInfo, inspect_object
from anyseal.objects.reader import ObjectFile, ObjectReader
from anyseal.objects.sources import FileSink, FileSource, MemorySink, MemorySource, StreamSink
from anyseal.objects.stream import StreamOpener
from anyseal.objects.writer import ObjectWriter

__all__ = [
    "FileSink",
    "FileSource",
    "MemorySink",
    "MemorySource",
    "ObjectFile",
    "ObjectInfo",
    "ObjectReader",
    "ObjectWriter",
    "StreamOpener",
    "StreamSink",
    "inspect_object",
]
