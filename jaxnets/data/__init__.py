"""Data: named sources, decoded images, seeded loaders, data on the device, augmentation, tasks made from a key."""

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
from jaxnets.data.loader import Indexable, Loader, batches
from jaxnets.data.long_memory import MemoryTask, memory_task
from jaxnets.data.sources import SOURCES, RemoteFile, Source, fetch
from jaxnets.data.splits import split_validation, stratified_split
from jaxnets.data.synthetic import Generate, GeneratedData, adding_problem, copy_task, held_out, pixel_sequence

__all__ = [
    "SOURCES",
    "Augment",
    "DeviceData",
    "Generate",
    "GeneratedData",
    "Images",
    "Indexable",
    "Loader",
    "MemoryTask",
    "RemoteFile",
    "Source",
    "adding_problem",
    "affine",
    "batches",
    "chain",
    "channel_statistics",
    "copy_task",
    "cutmix",
    "cutout",
    "decode_image",
    "fetch",
    "held_out",
    "load_images",
    "memory_task",
    "mixup",
    "normalise",
    "picture_files",
    "pixel_sequence",
    "random_affine",
    "random_crop",
    "random_flip",
    "random_rotation",
    "read_image",
    "split_validation",
    "stratified_split",
]
