from pydantic import BaseModel

from holdfast.agents import Agent, Context


class Person(BaseModel):
    name: str


class Greeting(BaseModel):
    text: str


greeter = Agent("greeter")


@greeter.task
async def greet(ctx: Context, person: Person) -> Greeting:
    return Greeting(text=f"Hello, {person.name}!")
