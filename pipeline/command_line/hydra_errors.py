"""What Hydra and OmegaConf reject, said in Sprig's own words."""

import re

from pipeline.config import keys


def sentence(error: Exception) -> str:
    """What Hydra says over several lines, in one sentence with a cure."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    if match := re.search(r"Key '(\w+)' (?:is )?not in", text):
        full = re.search(r"full_key: ([\w.]+)", text)
        return keys.unknown(full[1] if full else match[1])
    text = re.split(r" full_key:| Config search path:| See https?:", text)[0]
    text = text.removeprefix("Error merging override ").removeprefix("In 'config': ")
    of_plan = r"of type '\w+' is incompatible with type hint 'Union\[bool, str\]'"
    text = re.sub(of_plan, "must be true, false or measure", text)
    text = re.sub(r"is not a valid bool \(type \w+\)", "is not true or false", text)
    text = re.sub(r"(?: of type '\w+')? could not be converted to (?:Float|Integer)", " is not a number", text)
    text = re.sub(
        r"Invalid type assigned: \w+ is not a subclass of \w+\. value: .*", "holds what is not a number", text
    )
    text = re.sub("Cannot merge DictConfig with ListConfig", "is not a list, such as [a,b]", text)
    text = re.sub(r"Cannot assign \w+ to Dict\[str, Any\]", "is not a dictionary, such as {key: value}", text)
    text = re.sub(r"^(\S+=.*?) Value '.*?' (?=is not |must be )", r"\1 ", text)
    text = re.sub(r"^(\S+=null) field '\S+' is not Optional", r"\1 is not possible, as the key needs a value", text)
    set_to = re.sub(r"^(\S+=.*?) (?=Value '|Invalid |Cannot )", r"\1: ", text).strip().rstrip(".")
    return f"{set_to}." if "=" in set_to else f"{set_to}. `sprig --help` lists the choices."
