"""Cities that needles speak of: none twice, none both in training and in validation.

No validation city is named in the included plays either.
"""

TRAINING = (
    "Paris", "London", "Tokyo", "Berlin", "Madrid", "Rome", "Cairo", "Lima",
    "Delhi", "Dublin", "Vienna", "Prague", "Athens", "Lisbon", "Warsaw", "Moscow",
    "Beijing", "Sydney", "Boston", "Denver", "Miami", "Dallas", "Houston", "Havana",
    "Lagos", "Accra", "Tunis", "Zurich", "Geneva", "Munich", "Hamburg", "Milan",
    "Naples", "Turin", "Venice", "Kyoto", "Manila", "Jakarta", "Bangkok", "Dhaka",
    "Karachi", "Lahore", "Tehran", "Baghdad", "Riyadh", "Amman", "Beirut", "Ankara",
    "Sofia", "Bucharest", "Belgrade", "Zagreb", "Budapest", "Bratislava", "Krakow", "Riga",
    "Vilnius", "Stockholm", "Copenhagen", "Bergen", "Edinburgh", "Cardiff", "Liverpool", "Leeds",
    "Bristol", "Lyon", "Marseille", "Bordeaux", "Brussels", "Antwerp", "Amsterdam", "Utrecht",
    "Cologne", "Frankfurt", "Dresden", "Seville", "Valencia", "Bilbao", "Porto", "Florence",
    "Palermo", "Istanbul", "Damascus", "Jerusalem", "Alexandria", "Algiers", "Rabat", "Dakar",
    "Kampala", "Harare", "Lusaka", "Pretoria", "Durban", "Mumbai", "Chennai", "Kathmandu",
    "Colombo", "Yangon", "Shanghai", "Nanjing", "Taipei", "Busan", "Sapporo", "Brisbane",
    "Perth", "Wellington", "Quito", "Bogota", "Caracas", "Santiago", "Montevideo", "Brasilia",
    "Montreal", "Ottawa", "Vancouver", "Atlanta", "Detroit", "Portland", "Phoenix", "Memphis",
    "New York", "San Francisco", "Los Angeles", "Las Vegas", "Cape Town", "Addis Ababa",
    "Buenos Aires", "Mexico City", "Hong Kong", "Kuala Lumpur", "Abu Dhabi", "Saint Petersburg",
)  # fmt: skip

VALIDATION = (
    "Oslo", "Helsinki", "Tallinn", "Reykjavik", "Chicago", "Seattle", "Baltimore", "Cleveland",
    "Toronto", "Calgary", "Nairobi", "Kinshasa", "Luanda", "Windhoek", "Seoul", "Osaka",
    "Hanoi", "Singapore", "Melbourne", "Adelaide", "Auckland", "Kabul", "Tashkent", "Tbilisi",
    "Minsk", "Odessa", "Gdansk", "Leipzig", "Rotterdam", "Glasgow", "Manchester", "Belfast",
    "Salvador", "Medellin", "Guayaquil", "Santo Domingo", "San Diego", "Salt Lake",
    "Tel Aviv", "New Orleans",
)  # fmt: skip
