from nncift_core.records import Example, ReadReport

__all__ = ["Example", "ReadReport"]
