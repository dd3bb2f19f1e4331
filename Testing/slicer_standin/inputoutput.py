"""slicer.app.coreIOManager(): reads and writes nodes and scenes with MRML's own code."""

from __future__ import annotations

from pathlib import Path

import slicer

_STORAGE = {
    "VolumeFile": ("vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode"),
    "LabelMapFile": ("vtkMRMLLabelMapVolumeNode", "vtkMRMLVolumeArchetypeStorageNode"),
    "SegmentationFile": ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode"),
    "ModelFile": ("vtkMRMLModelNode", "vtkMRMLModelStorageNode"),
    "MarkupsFile": ("vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsJsonStorageNode"),
}
_EXTENSIONS = {
    ".seg.nrrd": "SegmentationFile",
    ".nrrd": "VolumeFile",
    ".nhdr": "VolumeFile",
    ".nii": "VolumeFile",
    ".nii.gz": "VolumeFile",
    ".mha": "VolumeFile",
    ".mhd": "VolumeFile",
    ".stl": "ModelFile",
    ".ply": "ModelFile",
    ".obj": "ModelFile",
    ".vtp": "ModelFile",
    ".mrk.json": "MarkupsFile",
    ".mrml": "SceneFile",
    ".mrb": "SceneFile",
}


def _extension(path: str) -> str:
    """The longest known extension of a file name, or ""."""
    found = [extension for extension in _EXTENSIONS if str(path).lower().endswith(extension)]
    return max(found, key=len, default="")


class CoreIOManager:
    """The methods of qSlicerCoreIOManager that the load and save functions of slicer.util use."""

    def fileType(self, path: str) -> str:
        if not _extension(path):
            raise ValueError(f"no reader for {path}")
        return _EXTENSIONS[_extension(path)]

    def fileWriterFileType(self, node) -> str:
        return next(kind for kind, (nodeClass, _storage) in _STORAGE.items() if node.IsA(nodeClass))

    def extractKnownExtension(self, path: str, node) -> str:
        return _extension(path)

    def fileWriterExtensions(self, node) -> list[str]:
        storage = node.CreateDefaultStorageNode()
        types = storage.GetSupportedWriteFileTypes()
        found = [types.GetValue(index) for index in range(types.GetNumberOfValues())]
        return found

    def loadNodes(self, fileType: str, properties: dict, loaded, messages) -> bool:
        path = properties["fileName"]
        if fileType == "SceneFile":
            return _loadScene(path, properties.get("clear", True))
        nodeClass, storageClass = _STORAGE[fileType]
        if fileType == "VolumeFile" and properties.get("labelmap"):
            nodeClass = "vtkMRMLLabelMapVolumeNode"
        scene = slicer.mrmlScene
        storage = scene.CreateNodeByClass(storageClass)
        storage.UnRegister(None)
        storage.SetFileName(str(path))
        if fileType == "VolumeFile":
            storage.SetCenterImage(bool(properties.get("center", False)))
        node = scene.CreateNodeByClass(nodeClass)
        node.UnRegister(None)
        node.SetName(scene.GenerateUniqueName(properties.get("name") or _baseName(path)))
        scene.AddNode(storage)
        if not storage.ReadData(node):
            scene.RemoveNode(storage)
            return False
        scene.AddNode(node)
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        if node.IsA("vtkMRMLScalarVolumeNode") and properties.get("show", True):
            slicer.util.setSliceViewerLayers(background=node, fit=True)
        loaded.AddItem(node)
        return True

    def saveNodes(self, fileType: str, properties: dict, messages) -> bool:
        path = str(properties["fileName"])
        if fileType == "SceneFile":
            return _saveScene(path)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(path)
        return bool(node.GetStorageNode().WriteData(node))

    def exportNodes(self, nodeIDs, fileNames, properties: dict, hardenTransforms: bool, messages) -> bool:
        if hardenTransforms:
            raise NotImplementedError("the stand-in exports in the nodes' own coordinates only")
        done = True
        for nodeID, path in zip(nodeIDs, fileNames, strict=True):
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            storage = node.CreateDefaultStorageNode()
            storage.SetFileName(str(path))
            done = bool(storage.WriteData(node)) and done
        return done


def _baseName(path: str) -> str:
    return Path(path).name.removesuffix(_extension(path))


def _loadScene(path: str, clear: bool) -> bool:
    scene = slicer.mrmlScene
    if path.endswith(".mrb"):
        return bool(scene.ReadFromMRB(path, clear))
    scene.SetURL(path)
    return bool(scene.Connect() if clear else scene.Import())


def _saveScene(path: str) -> bool:
    scene = slicer.mrmlScene
    if path.endswith(".mrb"):
        return bool(scene.WriteToMRB(path))
    if path.endswith(".mrml"):
        scene.SetURL(path)
        scene.SetRootDirectory(str(Path(path).parent))
        return bool(scene.Commit(path))
    Path(path).mkdir(parents=True, exist_ok=True)
    return bool(scene.SaveSceneToSlicerDataBundleDirectory(path))
