"""Offers the key-value store that writes down what it performs to the nodes of a session."""

from tests.blackbox.diary import DiaryFactory

diary = DiaryFactory()
