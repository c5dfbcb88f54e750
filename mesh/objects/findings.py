"""Codes of findings about manifests."""

from mesh.core.findings import Code

FOLDER = Code(
    "M101",
    "The folder of manifests cannot be read, or is empty since it was replaced. The objects stay "
    "as they were.",
    "Make the folder readable, or put the manifests back.",
)
BROKEN_FILE = Code(
    "M102",
    "A file of manifests is no YAML or JSON, or is cut off. Its objects stay as they were.",
    "Mend the file at the place that the field names.",
)
REFUSED = Code(
    "M103",
    "An object has a field that is missing, unknown or wrong. It is not used; where an earlier "
    "version was good, that one stays.",
    "Mend the field.",
)
DUPLICATE = Code(
    "M104",
    "An object is given more than once. The first one by file name and place counts.",
    "Remove all but one.",
)
UNKNOWN_KIND = Code(
    "M105",
    "An object is of a version that nothing here reads, of a former kind, or of a kind whose name "
    "is like one that is read. It is not used; where its file had an object of this name, that one "
    "stays.",
    "Correct apiVersion and kind, or move the object to another folder.",
)
UNSUPPORTED = Code(
    "M106",
    "An object is used without a field or entry that is not supported. Objects of one kind that "
    "have the same field are one finding, with their number and the first names. The text says "
    "what follows.",
    "Change the field to what is supported. docs/objects.md lists the fields of each kind.",
)
STATE = Code(
    "M107",
    "The last good version of a file of manifests cannot be kept or read back. After a restart, "
    "the objects of a file that is broken by then are missing.",
    "Make room in the state directory, and make it writable.",
)
