"""Data: named sources, images, texts, series, seeded loaders, data on the device, augmentation, tasks from a key."""

from jaxnets.data.augment import (
    Augment,
    affine,
    chain,
    channel_statistics,
    cutmix,
    cutout,
    mixup,
    normalise,
    random_affine,
    random_crop,
    random_flip,
    random_rotation,
)
from jaxnets.data.decode import decode_image, read_image
from jaxnets.data.device import DeviceData
from jaxnets.data.folder import picture_files
from jaxnets.data.images import Images, load_images
from jaxnets.data.labelled import Labelled, LabelledTexts, load_labelled
from jaxnets.data.loader import ByStep, Indexable, Loader, Seekable, batches
from jaxnets.data.long_memory import MemoryTask, memory_task
from jaxnets.data.ragged import BucketLoader, bucket_bounds, in_buckets, pack, pad
from jaxnets.data.series import Series, load_series
from jaxnets.data.sources import SOURCES, RemoteFile, Source, fetch
from jaxnets.data.splits import split_validation, stratified_split
from jaxnets.data.synthetic import Generate, GeneratedData, adding_problem, copy_task, held_out, pixel_sequence
from jaxnets.data.text import Text, load_text
from jaxnets.data.text_rows import DeviceText, TextLoader
from jaxnets.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    SubwordTokenizer,
    Tokenizer,
    WordTokenizer,
    decode_stream,
    read_tokenizer,
    tokenizer_from_json,
)
from jaxnets.data.windows import DeviceWindows, every_window
from jaxnets.data.words import spaced_words, without_middle, word_ngrams, word_spans

__all__ = [
    "SOURCES",
    "Augment",
    "BucketLoader",
    "ByStep",
    "ByteTokenizer",
    "CharTokenizer",
    "DeviceData",
    "DeviceText",
    "DeviceWindows",
    "Generate",
    "GeneratedData",
    "Images",
    "Indexable",
    "Labelled",
    "LabelledTexts",
    "Loader",
    "MemoryTask",
    "RemoteFile",
    "Seekable",
    "Series",
    "Source",
    "SubwordTokenizer",
    "Text",
    "TextLoader",
    "Tokenizer",
    "WordTokenizer",
    "adding_problem",
    "affine",
    "batches",
    "bucket_bounds",
    "chain",
    "channel_statistics",
    "copy_task",
    "cutmix",
    "cutout",
    "decode_image",
    "decode_stream",
    "every_window",
    "fetch",
    "held_out",
    "in_buckets",
    "load_images",
    "load_labelled",
    "load_series",
    "load_text",
    "memory_task",
    "mixup",
    "normalise",
    "pack",
    "pad",
    "picture_files",
    "pixel_sequence",
    "random_affine",
    "random_crop",
    "random_flip",
    "random_rotation",
    "read_image",
    "read_tokenizer",
    "spaced_words",
    "split_validation",
    "stratified_split",
    "tokenizer_from_json",
    "without_middle",
    "word_ngrams",
    "word_spans",
]
