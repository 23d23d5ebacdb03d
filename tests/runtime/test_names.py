"""Who answers for a name, and what a caller is told when nobody does."""

from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from bertd import errors
from bertd.runtime import router


@dataclass(kw_only=True)
class Names:
    """Names that do not serve; some appear when somebody looks."""

    declared: set[str]
    hidden: set[str] = field(default_factory=set)
    looks: int = 0

    def route(self, adapter: str) -> router.Route | None:
        return None

    def refusal(self, adapter: str) -> errors.Error | None:
        return errors.NotReady("loading") if adapter in self.declared else None

    def known(self) -> Collection[str]:
        return self.declared

    async def look(self, adapter: str) -> bool:
        self.looks += 1
        self.declared |= self.hidden & {adapter}
        return adapter in self.hidden


def test_a_typo_among_thousands_of_names_costs_nothing() -> None:
    """Few names are searched for a suggestion; thousands would block everybody's calls."""
    routes = router.Router()
    routes.publish("few", Names(declared={f"tenant-{n}" for n in range(9)}))
    with pytest.raises(errors.NotFound, match="did you mean"):
        routes.find("few", "tenamt-3")
    routes.publish("many", Names(declared={f"tenant-{n}" for n in range(10_000)}))
    with pytest.raises(errors.NotFound) as refusal:
        routes.find("many", "tenamt-3")
    assert not refusal.value.hint


async def test_a_name_that_has_just_appeared_is_found() -> None:
    """An unknown name is looked for once; what has appeared is declared from then on."""
    names = Names(declared=set(), hidden={"new"})
    routes = router.Router()
    routes.publish("m", names)
    with pytest.raises(errors.NotReady):
        await routes.search("m", "new")
    with pytest.raises(errors.NotFound, match="no adapter 'other'"):
        await routes.search("m", "other")
    with pytest.raises(errors.NotFound, match="no model"):
        await routes.search("gone", "new")
    assert names.looks == 2


async def test_a_name_that_is_known_is_not_looked_for() -> None:
    """Calls for declared names never touch the disk, whether these serve or not."""
    names = Names(declared={"a"})
    routes = router.Router()
    routes.publish("m", names)
    with pytest.raises(errors.NotReady):
        await routes.search("m", "a")
    assert names.looks == 0
