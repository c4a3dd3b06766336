"""Puts generated parts into a Markdown file, between <!-- bench:NAME --> and <!-- end -->."""

import os
import re

import charts
import tables


def replace(text, name, content):
    """The text with another content between the markers of `name`, which must be there."""
    pattern = re.compile(rf"(<!-- bench:{re.escape(name)} -->\n).*?(<!-- end -->)", re.S)
    if not pattern.search(text):
        raise ValueError(f"the document has no markers <!-- bench:{name} --> … <!-- end -->")
    return pattern.sub(lambda found: f"{found.group(1)}\n{content}\n\n{found.group(2)}", text, 1)


def machine(result):
    """Where and how the figures were got."""
    found, options = result["machine"], result["options"]
    pages = "2 MiB huge pages" if options["huge_pages"] else "normal pages"
    lines = [
        f"{found['cpu']}, {found['cpus']} CPUs; Linux {found['kernel']}; DPDK {found['dpdk']}; "
        f"vhost-user-xdp {found['commit']}. {options['rounds']} rounds of "
        f"{options['seconds']:g} s, {pages} on both sides."]
    if result.get("disturbance"):
        lines.append(f"**{result['disturbance']}**")
    return "\n\n".join(lines)


def write(result, path, path_cost):
    """Writes the parts that the result has, and the charts beside the document."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    parts = {"machine": machine(result), **tables.parts(result["summary"])}
    if os.path.exists(path_cost):
        with open(path_cost, encoding="utf-8") as file:
            parts["path-cost"] = tables.path_cost(file.read())
    for name, content in parts.items():
        text = replace(text, name, content)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    for name, content in charts.charts(result["summary"]).items():
        with open(os.path.join(os.path.dirname(path), name), "w", encoding="utf-8") as file:
            file.write(content)
