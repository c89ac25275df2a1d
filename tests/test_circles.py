"""No module needs itself, by whatever way: imports inside functions count, those for type checkers do not."""

import grimp


def test_no_imports_go_in_a_circle() -> None:
    graph = grimp.build_graph("lora_cli", exclude_type_checking_imports=True)
    circles = {
        module
        for module in graph.modules
        if any(graph.find_shortest_chain(one, module) for one in graph.find_modules_directly_imported_by(module))
    }
    assert circles == set()
