"""Small faults in important lines, each with the tests that should notice it.

A mutation replaces one text, which occurs exactly once in its file. Where the code has changed, `make mutate` says that
the mutation is out of date: give it the line's new form, or another line that does the same.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in `file`. `tests` are pytest's arguments; `cases` choose cases on the pretended GPU."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    cases: str = ""


CLIENT, SERVICE = "client/rushes", "service/rushes_service"
QUEUE_TESTS = ("tests/integration/test_queue.py",)
LEASES = ("tests/integration/test_worker_leases.py",)
SECURITY_TESTS = ("tests/integration/test_api_security.py",)
LORA_TESTS = ("tests/unit/test_lora.py",)
ORDER = ("tests/unit/test_engine_order.py",)
FALLBACK_TESTS = ("tests/unit/test_fallback_memory.py",)
DEVICE_FAULTS = ("tests/device/test_device_faults.py",)
DEVICE_FAMILIES = ("tests/device/test_device_families.py",)

QUEUE = [
    Mutation(
        "a claimed entry counts as one's own",
        f"{SERVICE}/queue/lua/owner.lua",
        "if #pending == 0 or pending[1][2] ~= worker then return false end",
        "if #pending == 0 then return false end",
        QUEUE_TESTS,
    ),
    Mutation(
        "the record is not asked who owns a sample",
        f"{SERVICE}/queue/lua/owner.lua",
        "return record[1] == 'running' and record[2] == entry and record[3] == worker",
        "return true",
        QUEUE_TESTS,
    ),
    Mutation(
        "the base model's samples are superseded",
        f"{SERVICE}/queue/lua/reserve.lua",
        "if latest ~= '1' or at_step == '0' then return '' end",
        "if latest ~= '1' then return '' end",
        QUEUE_TESTS,
    ),
    Mutation(
        "only later steps supersede",
        f"{SERVICE}/queue/lua/reserve.lua",
        "newest ~= at_step and newest or ''",
        "tonumber(newest) > tonumber(at_step) and newest or ''",
        QUEUE_TESTS,
    ),
    Mutation(
        "a lost lease is found again",
        f"{SERVICE}/worker/lease.py",
        'if self._state != "lost":',
        "if True:",
        LEASES,
    ),
    Mutation(
        "the lease thread dies of an error",
        f"{SERVICE}/worker/lease.py",
        "        except Exception as error:  # whatever it is, the next heartbeat tries again",
        "        except OSError as error:",
        LEASES,
    ),
    Mutation(
        "ownership is asked after the file has its name",
        f"{SERVICE}/media/writing.py",
        "        guard()\n        with output_errors(target):",
        "        with output_errors(target):",
        ("tests/unit/test_media.py",),
    ),
]
PROMPTS = [
    Mutation(
        "an option needs no blank before it",
        f"{CLIENT}/prompts/lines.py",
        r'OPTION = re.compile(r"(?:^|(?<=\s))--(?=[A-Za-z])")',
        r'OPTION = re.compile(r"--(?=[A-Za-z])")',
        ("tests/unit/test_prompt_lines.py",),
    ),
    Mutation(
        "seeds of jobs have no bound",
        f"{CLIENT}/wire/jobs.py",
        "seed: int | None = Field(default=None, ge=0, lt=2**63)",
        "seed: int | None = Field(default=None)",
        ("tests/unit/test_jobs.py",),
    ),
    Mutation(
        "seeds of prompt lines have no bound",
        f"{CLIENT}/prompts/options.py",
        "if value is None or value >= 2**63:",
        "if value is None:",
        ("tests/unit/test_prompt_lines.py",),
    ),
]
SECURITY = [
    Mutation(
        "a token in any address opens everything",
        f"{SERVICE}/api/http/security.py",
        'if scope["path"] == "/" and "token" in parse_qs(',
        'if "token" in parse_qs(',
        SECURITY_TESTS,
    ),
    Mutation(
        "pages of other sites may change things",
        f"{SERVICE}/api/http/security.py",
        'return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()',
        "return False",
        SECURITY_TESTS,
    ),
]
WEIGHTS = [
    Mutation(
        "a LoRA's strength is ignored",
        f"{SERVICE}/lora/merge.py",
        "beta=1, alpha=scale, out=live[part])",
        "beta=1, alpha=1.0, out=live[part])",
        LORA_TESTS,
    ),
    Mutation(
        "a merge that fails leaves what it wrote",
        f"{SERVICE}/lora/merge.py",
        "        except BaseException:\n            self.restore()\n            raise",
        "        except BaseException:\n            raise",
        LORA_TESTS,
    ),
    Mutation(
        "NaN passes for a number",
        f"{SERVICE}/lora/reading/finite.py",
        "return math.isfinite(lowest) and math.isfinite(highest)",
        "return True",
        ("tests/unit/test_lora_finite.py",),
    ),
    Mutation(
        "a pristine copy is the weight itself",
        f"{SERVICE}/lora/pristine.py",
        "self._copies.update(zip(rest, pinned_copies(list(rest.values())), strict=True))",
        "self._copies.update(rest)",
        (*LORA_TESTS, "-k", "bit"),
    ),
    Mutation(
        "FramePack's sections fade the wrong way",
        f"{SERVICE}/models/framepack/decode.py",
        "weights = torch.linspace(1, 0, outgoing.shape[2]",
        "weights = torch.linspace(0, 1, outgoing.shape[2]",
        ("tests/unit/test_framepack_parts.py",),
    ),
]
MEMORY = [
    Mutation(
        "frames are handed on twice when memory runs out late",
        f"{SERVICE}/engine/sample.py",
        "fresh = pixels[:, skip:]",
        "fresh = pixels",
        ORDER,
    ),
    Mutation(
        "nothing is freed between two ways",
        f"{SERVICE}/engine/fallback_memory.py",
        "                free()\n",
        "                pass\n",
        FALLBACK_TESTS,
    ),
    Mutation(
        "what worked is not remembered",
        f"{SERVICE}/engine/fallback_memory.py",
        "        self._remembered[key] = Remembered(",
        "        Remembered(",
        FALLBACK_TESTS,
    ),
    Mutation(
        "a way is remembered for good",
        f"{SERVICE}/engine/fallback_memory.py",
        "if self._clock() < found.until and self._available() < found.available + GROWN_BYTES:",
        "if True:",
        FALLBACK_TESTS,
    ),
    Mutation(
        "a model is unloaded under a decode",
        f"{SERVICE}/engine/stages/loading.py",
        '        self._shared.locks.wait_for_decoding()\n        attempt = self._shared.attempt("load"',
        '        attempt = self._shared.attempt("load"',
        ORDER,
    ),
    Mutation(
        "a transformer that was put aside does not come back",
        f"{SERVICE}/engine/loaded.py",
        "        if not self._aside:\n            return",
        "        return",
        DEVICE_FAULTS,
        cases="wan2.1-t2v-encode-0.5-once",
    ),
    Mutation(
        "a block that failed on the card stays there",
        f"{SERVICE}/engine/loaded.py",
        "        for offloader in self.offloaders:\n            offloader.reset()",
        "        for offloader in self.offloaders:\n            pass",
        DEVICE_FAULTS,
        cases="block_that_failed",
    ),
    Mutation(
        "the card is not made the thread's own",
        f"{SERVICE}/runtime/devices.py",
        '    if device.type == "cuda":\n        torch.cuda.set_device(device)',
        "",
        DEVICE_FAULTS,
        cases="its_own_card",
    ),
    Mutation(
        "scales of float8 stay behind when a block moves",
        f"{SERVICE}/engine/offload.py",
        "= [*module.parameters(), *module.buffers()]\n        self.bytes",
        "= [*module.parameters()]\n        self.bytes",
        DEVICE_FAMILIES,
        cases="offloaded and wan2.1-t2v and scales",
    ),
    Mutation(
        "an offloaded model's VAE stays in host memory",
        f"{SERVICE}/engine/loaded.py",
        "    base.vae.to(device)",
        "    base.vae.to(CPU if offload else device)",
        DEVICE_FAMILIES,
        cases="offloaded and hunyuan-video-i2v-bfloat16",
    ),
    Mutation(
        "frames become bytes outside of the error handling",
        f"{SERVICE}/engine/sample.py",
        "in self._decoded(attempt.fallback, done, convert, alone=attempt.at > 0):",
        "in ((n, convert(p)) for n, p in self._decoded(attempt.fallback, done, lambda p: p, alone=attempt.at > 0)):",
        DEVICE_FAULTS,
        cases="after_the_decoder",
    ),
    Mutation(
        "a decode is registered when it begins, and not when it is handed over",
        f"{SERVICE}/engine/sample.py",
        "        self._registration = self._decoding.locks.register_decode(here=False)\n"
        "        weakref.finalize(self, self._registration.release)\n",
        "        pass\n",
        DEVICE_FAULTS,
        cases="handed_over",
    ),
    Mutation(
        "what the CPU has encoded passes for the card's",
        f"{SERVICE}/engine/engine.py",
        'usual = ON_CPU if here.type == "cpu" else None',
        "usual = None",
        DEVICE_FAULTS,
        cases="cpu_worker",
    ),
]
MUTATIONS = [*QUEUE, *PROMPTS, *SECURITY, *WEIGHTS, *MEMORY]
