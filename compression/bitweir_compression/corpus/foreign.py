"""Prompts of neither corpus: what people ask that the embedded models were not made for.

A pair is measured on them to show how much of its figures comes from knowing its own corpora. No answers belong to
them, and no bound is held against them. `bitweir models check --foreign FILE` reads others.
"""

from typing import Final

FOREIGN_PROMPTS: Final = (
    # History and places.
    "Why did the Roman Republic become an empire?",
    "Who built the first printing press in Europe, and what changed because of it?",
    "What was the Hanseatic League?",
    "Describe a market day in a medieval town.",
    "Which rivers does the Silk Road follow?",
    "What should I see on a weekend in Lisbon?",
    # Cooking and the home.
    "How do I keep risotto from getting sticky?",
    "Give me a shopping list for a vegetable soup for four people.",
    "My bread does not rise. What could be wrong?",
    "How do I get candle wax out of a tablecloth?",
    "What can I plant on a balcony that faces north?",
    # Science and nature.
    "Why is the sky blue and the sunset red?",
    "Explain what entropy means to a ten-year-old.",
    "What happens inside a star when its hydrogen runs out?",
    "How do vaccines work?",
    "Why do cats purr?",
    "What is the difference between weather and climate?",
    "Could a human survive on Mars without a suit for a minute?",
    # Small talk and advice.
    "Hi! How are you today?",
    "I had a long day and cannot sleep. Any ideas?",
    "Tell me a joke about penguins.",
    "What is your favourite season?",
    "How do I ask my boss for a raise without sounding greedy?",
    "My best friend moves abroad next week. What would be a good present?",
    # Writing.
    "Write a haiku about an old bicycle.",
    "Write a polite e-mail that cancels a dentist's appointment.",
    "Begin a detective story that takes place on a ferry.",
    "Translate into French: Where is the nearest pharmacy?",
    "Make this friendlier: Send me the report now.",
    "Summarise the story of Romeo and Juliet in two sentences.",
    # Lists and comparisons.
    "List five musical instruments that are older than the piano.",
    "Name the advantages and disadvantages of working from home.",
    "Which three books about the sea would you recommend?",
    "Compare trains and planes for a journey of five hundred kilometres.",
    # Computers, in other languages than the corpora's.
    "Write a function in JavaScript that removes duplicates from an array.",
    "How do I undo the last commit in git but keep my changes?",
    "What does SELECT name FROM users WHERE age > 30 ORDER BY name do?",
    "Explain pointers in C with an example.",
    "My laptop gets hot and slow. What should I check first?",
    # Things no one should answer with confidence.
    "Who will win the next World Cup?",
    "Is it going to rain tomorrow?",
    "Should I invest my savings in gold?",
)
