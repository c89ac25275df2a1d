"""What real engines make of each adapter, beside what ``validate --engine`` says that they make of it."""
