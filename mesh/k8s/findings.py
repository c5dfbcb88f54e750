"""Codes of findings about the API server as a source of objects."""

from mesh.core.findings import Code

AWAY = Code(
    "M200",
    "The API server does not answer. Objects stay as they were; changes wait.",
    "Start the API server, or mend the way to it; the text has the error.",
)
CREDENTIALS = Code(
    "M201",
    "The API server does not know who this process is (401), or its credentials cannot be read. "
    "Objects stay as they were.",
    "Give the process a valid token or certificate. It is read again at the next attempt.",
)
FORBIDDEN = Code(
    "M202",
    "The process may not read a resource at the API server (403). Objects of this kind stay as "
    "they were; at the start there are none, and what depends on them waits.",
    "Grant the verb on the resource that the field names to the process's user.",
)
NOT_SERVED = Code(
    "M203",
    "The API server does not serve a kind that this process needs (404). Objects of this kind stay "
    "as they were.",
    "Apply the definitions in deploy/crds, or use an API server of a supported version.",
)
REPLACED = Code(
    "M204",
    "The API server is another one than before: its namespace kube-system has another UID. Nothing "
    "of it is used, and the objects of the former one stay.",
    "If the cluster was made anew on purpose: meshgate cluster accept-apiserver. Else bring the "
    "former API server, or its etcd, back.",
)
IN_BOTH = Code(
    "M205",
    "An object is in the folder of manifests and at the API server. The one in the folder counts.",
    "Remove one of the two.",
)
UNREADABLE = Code(
    "M206",
    "The API server sends an answer that is no list, event or object. Objects of this kind stay as "
    "they were.",
    "Look at what stands between this process and the API server: a proxy may answer in its place.",
)
CANNOT_WRITE = Code(
    "M209",
    "The leading controller cannot write a status or an Event to the API server. What it would "
    "say there stands in meshgate status all the same.",
    "Grant the verb on the resource that the field names to the controller's user.",
)
NOT_KEPT = Code(
    "M207",
    "The state directory cannot keep which API server was read, or the last good version of its "
    "objects. After a restart, an object that is wrong by then is missing, and another API server "
    "is not recognized.",
    "Make room in the state directory, and make it writable.",
)
