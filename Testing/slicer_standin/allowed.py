"""Classes, properties and dynamic properties that a .ui file of this extension may use; without Qt.

Slicer's own loader accepts every class of its designer plugins and ignores unknown ones. Here all of them are listed,
so that a typing error is detected. To use another widget, add it here and, if it is not a class of Qt, to ctk.py or
mrmlwidgets.py.
"""

from __future__ import annotations

_WIDGET = {
    "enabled",
    "font",
    "focusPolicy",
    "geometry",
    "maximumSize",
    "minimumSize",
    "sizePolicy",
    "styleSheet",
    "toolTip",
    "visible",
    "windowTitle",
}
_BUTTON = _WIDGET | {"autoExclusive", "checkable", "checked", "text"}
_FRAME = _WIDGET | {"frameShadow", "frameShape", "lineWidth"}
_SPIN_BOX = _WIDGET | {
    "alignment",
    "keyboardTracking",
    "maximum",
    "minimum",
    "prefix",
    "singleStep",
    "specialValueText",
    "suffix",
    "value",
}
_ITEM_VIEW = _FRAME | {
    "alternatingRowColors",
    "editTriggers",
    "horizontalScrollBarPolicy",
    "selectionBehavior",
    "selectionMode",
    "showGrid",
    "sizeAdjustPolicy",
    "verticalScrollBarPolicy",
    "wordWrap",
}
_LAYOUT = {"bottomMargin", "leftMargin", "rightMargin", "spacing", "topMargin"}

WIDGETS: dict[str, set[str]] = {
    "QWidget": _WIDGET,
    "QLabel": _FRAME
    | {"alignment", "indent", "openExternalLinks", "text", "textFormat", "textInteractionFlags", "wordWrap"},
    "QPushButton": _BUTTON | {"autoDefault", "default", "flat"},
    "QToolButton": _BUTTON | {"arrowType", "autoRaise", "iconSize", "toolButtonStyle"},
    "QCheckBox": _BUTTON | {"tristate"},
    "QRadioButton": _BUTTON,
    "QComboBox": _WIDGET | {"currentIndex", "editable", "sizeAdjustPolicy", "minimumContentsLength"},
    "QSpinBox": _SPIN_BOX,
    "QDoubleSpinBox": _SPIN_BOX | {"decimals"},
    "QProgressBar": _WIDGET | {"alignment", "format", "maximum", "minimum", "textVisible", "value"},
    "QPlainTextEdit": _FRAME
    | {"lineWrapMode", "maximumBlockCount", "placeholderText", "plainText", "readOnly", "verticalScrollBarPolicy"},
    "QTableWidget": _ITEM_VIEW | {"columnCount", "rowCount"},
    "QLineEdit": _WIDGET
    | {"alignment", "clearButtonEnabled", "frame", "maxLength", "placeholderText", "readOnly", "text"},
    "QFrame": _FRAME,
    "ctkCollapsibleButton": _BUTTON | {"collapsed", "collapsedHeight", "contentsFrameShape"},
    "ctkCollapsibleGroupBox": _WIDGET | {"checked", "collapsed", "collapsedHeight", "flat", "title"},
    "ctkSliderWidget": _WIDGET
    | {
        "decimals",
        "maximum",
        "minimum",
        "pageStep",
        "prefix",
        "singleStep",
        "spinBoxVisible",
        "suffix",
        "tracking",
        "value",
    },
    "ctkPathLineEdit": _WIDGET
    | {"currentPath", "filters", "nameFilters", "settingKey", "showBrowseButton", "showHistoryButton"},
    "qMRMLWidget": _WIDGET,
    "qMRMLNodeComboBox": _WIDGET
    | {
        "addEnabled",
        "baseName",
        "editEnabled",
        "hideChildNodeTypes",
        "nodeTypes",
        "noneDisplay",
        "noneEnabled",
        "removeEnabled",
        "renameEnabled",
        "selectNodeUponCreation",
        "showChildNodeTypes",
        "showHidden",
    },
    "qMRMLSegmentSelectorWidget": _WIDGET
    | {
        "editEnabled",
        "horizontalLayout",
        "noneEnabled",
        "segmentationNodeSelectorVisible",
        "selectNodeUponCreation",
    },
}

LAYOUTS: dict[str, set[str]] = {
    "QVBoxLayout": _LAYOUT,
    "QHBoxLayout": _LAYOUT,
    "QFormLayout": _LAYOUT - {"spacing"}
    | {"fieldGrowthPolicy", "formAlignment", "horizontalSpacing", "labelAlignment", "rowWrapPolicy", "verticalSpacing"},
    "QGridLayout": _LAYOUT | {"horizontalSpacing", "verticalSpacing"},
}

SPACER = {"orientation", "sizeHint", "sizeType"}

# Read by Slicer's parameter nodes.
DYNAMIC = {"SlicerParameterName"}

# Header settings of a table, which are attributes in .ui files.
TABLE_ATTRIBUTES = {
    "horizontalHeaderStretchLastSection",
    "horizontalHeaderVisible",
    "verticalHeaderVisible",
    "verticalHeaderDefaultSectionSize",
}

# Types of parameters that Slicer's own connectors support, by class of the widget.
CONNECTORS: dict[str, set[str]] = {
    "QCheckBox": {"bool"},
    "QPushButton": {"bool"},
    "QSpinBox": {"int"},
    "QDoubleSpinBox": {"float", "int"},
    "ctkSliderWidget": {"float", "int"},
    "QComboBox": {"str", "int", "float", "bool"},
    "QLineEdit": {"str"},
    "ctkPathLineEdit": {"Path"},
    "qMRMLNodeComboBox": {"node"},
}
