"""Pickles that run something: families that scanners list, those that got past them, and every way to write one."""

import struct
from collections.abc import Callable, Mapping

NAMES = (
    "os system popen execv remove", "posix system posix_spawn", "nt system", "subprocess Popen call check_output",
    "builtins eval exec compile open setattr __import__ getattr globals map filter print str.join",
    "__builtin__ eval exec apply execfile file", "sys exit modules", "importlib import_module", "runpy run_path",
    "operator attrgetter methodcaller call", "functools partial reduce", "pydoc locate", "pickle loads Unpickler",
    "ctypes CDLL", "shutil rmtree", "io open", "pathlib Path.write_text Path.unlink os", "datetime timedelta.max sys",
    "_codecs lookup register", "codecs open encode", "copyreg _reconstructor __newobj__", "socket socket",
    "numpy load fromfile memmap __builtins__ core._internal.sys.modules", "numpy.testing._private.utils runstring",
    "numpy.f2py.crackfortran getlincoef", "collections OrderedDict.fromkeys namedtuple _sys.modules",
    "torch load hub.load compile classes FloatStorage.from_file storage.FloatStorage ops",
    "torch.hub load download_url_to_file", "torch.jit load", "torch.serialization load add_safe_globals",
    "torch.storage _load_from_bytes", "torch._utils _import_dotted_name _rebuild_wrapper_subclass",
    "torch.utils._config_module ConfigModule.load_config", "torch._inductor.codecache compile_file",
    "torch.multiprocessing.reductions rebuild_storage_fd", "torch.distributed.rpc.internal _run_function",
    "transformers pipeline AutoModel.from_pretrained AutoConfig", "peft PeftModel.from_pretrained LoraConfig",
    "transformers.training_args os.system TrainingArguments.to_json_string logging.log_levels Path",
    "transformers.trainer_utils set_seed importlib os", "transformers.utils.import_utils _LazyModule",
    "accelerate.utils.dataclasses os.system importlib str_to_bool", "accelerate.utils.launch subprocess.run",
    "trl.trainer.sft_config os SFTConfig.from_dict", "swift.x Swift osConfig", "UnslothX.os system",
    "__main__ system run os Evil Arguments.run", "joblib load", "dill loads", "pip main", "logging.config listen",
)  # fmt: skip
"""Modules, each with the names in it that must never be looked up: what runs something, and what a list of harmless
names must not have taken for one of them."""

GADGETS = [(module, name) for module, *names in map(str.split, NAMES) for name in names]


def _short(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def _long(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _line(module: str, name: str) -> bytes:
    return f"{module}\n{name}\n".encode()


FORMS: Mapping[str, Callable[[str, str], bytes]] = {
    "protocol 0": lambda m, n: b"c" + _line(m, n) + b"(S'id'\ntR.",
    "protocol 2": lambda m, n: b"\x80\x02c" + _line(m, n) + _long("id") + b"\x85R.",
    "protocol 4": lambda m, n: b"\x80\x04" + _short(m) + _short(n) + b"\x93" + _short("id") + b"\x85R.",
    "framed": lambda m, n: b"\x80\x05\x95" + struct.pack("<Q", 1 << 40) + _short(m) + _short(n) + b"\x93)R.",
    "INST": lambda m, n: b"(S'id'\ni" + _line(m, n) + b".",
    "OBJ": lambda m, n: b"(c" + _line(m, n) + b"S'id'\no.",
    "NEWOBJ": lambda m, n: b"\x80\x02c" + _line(m, n) + b")\x81.",
    "NEWOBJ_EX": lambda m, n: b"\x80\x04c" + _line(m, n) + b")}\x92.",
    "looked up and dropped": lambda m, n: b"\x80\x02c" + _line(m, n) + b"0}.",
    "left as data": lambda m, n: b"\x80\x02}" + _long("weight") + b"c" + _line(m, n) + b"s.",
    "before garbage": lambda m, n: b"\x80\x02c" + _line(m, n) + _long("id") + b"\x85R\xff\xff",
    "never stopped": lambda m, n: b"\x80\x02c" + _line(m, n) + _long("id") + b"\x85R",
    "memo overwritten": lambda m, n: (
        b"\x80\x04" + _short(m) + b"q\x000" + _short(n) + b"q\x010" + _short("torch._utils") + b"\x940"
        + _short("_rebuild_tensor_v2") + b"\x940h\x00h\x01\x93)R."
    ),
    "after a first pickle": lambda m, n: b"\x80\x02}." + b"c" + _line(m, n) + b"(S'id'\ntR.",
    "in the state of an object": lambda m, n: (
        b"\x80\x02ccollections\nOrderedDict\n)R}" + _long("x") + b"c" + _line(m, n) + _long("id") + b"\x85Rsb."
    ),
    "in a storage": lambda m, n: b"\x80\x02(" + _long("storage") + b"c" + _line(m, n) + _long("0") + b"tQ.",
    "as an argument": lambda m, n: b"\x80\x02ctorch\nSize\nc" + _line(m, n) + b")R\x85\x85R.",
}  # fmt: skip
"""Every way to write the lookup of a name, and what may stand around it."""
