from qra.data.arrays import ArrayDataModule, CorruptedDataModule, corruptions
from qra.data.augment import random_crop_flip, to_pixels
from qra.data.cifar10 import CIFAR10DataModule, CIFAR100DataModule
from qra.data.image_folder import ImageFolderDataModule
from qra.data.module import ImageDataModule, Part, data_of
from qra.data.sampling import IndexBatches, balanced_subset, nested_subset, val_split
from qra.data.streamed import StreamedDataModule
from qra.data.synthetic import SyntheticDataModule
from qra.data.tensors import ImageData, ImageSet, TensorDataModule

__all__ = [
    "ArrayDataModule",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "CorruptedDataModule",
    "ImageData",
    "ImageDataModule",
    "ImageFolderDataModule",
    "ImageSet",
    "IndexBatches",
    "Part",
    "StreamedDataModule",
    "SyntheticDataModule",
    "TensorDataModule",
    "balanced_subset",
    "corruptions",
    "data_of",
    "nested_subset",
    "random_crop_flip",
    "to_pixels",
    "val_split",
]
